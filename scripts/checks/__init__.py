"""Whether what we say holds: each program tries one claim and fails where it does not."""
