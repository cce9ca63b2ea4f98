"""The ways to get an ordinary session for a verified user, one file each."""
