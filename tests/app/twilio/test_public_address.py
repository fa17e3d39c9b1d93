from app.config import read_settings
from app.twilio.public_address import PublicAddress
from app.twilio.signature import sign

OLD, NEW, TOKEN = "https://old.example.com", "https://new.example.com", "the-auth-token"


def test_after_a_move_what_is_signed_for_the_new_address_is_valid_and_for_the_old_one_is_not() -> None:
    public = PublicAddress(read_settings(public_url=OLD, twilio_auth_token=TOKEN))
    public.move(NEW)
    assert public.base_url == NEW
    assert public.check is not None
    assert public.check.webhook_valid("/twilio/voice", (), sign(TOKEN, f"{NEW}/twilio/voice"))
    assert not public.check.webhook_valid("/twilio/voice", (), sign(TOKEN, f"{OLD}/twilio/voice"))


def test_a_public_url_is_open_at_once_and_a_tunnel_is_not() -> None:
    assert PublicAddress(read_settings(public_url=OLD, twilio_auth_token=TOKEN)).is_open
    assert not PublicAddress(read_settings(tunnel=True, twilio_auth_token=TOKEN)).is_open


def test_without_a_token_nothing_is_checked_at_any_address() -> None:
    public = PublicAddress(read_settings())
    public.move("http://127.0.0.1:9")
    assert public.check is None
