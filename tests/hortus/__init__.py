"""Tests of the client: the library and the command, against a real TLS server that misbehaves on purpose."""
