"""`moshi-bridge demo`: from nothing to a phone call answered, twice, with a table, a checklist and a picture."""
