from importlib.metadata import PackageNotFoundError, version


def software_version() -> str:
    try:
        return version("moshi-bridge")
    except PackageNotFoundError:  # in a container there are only the files
        return "unknown"
