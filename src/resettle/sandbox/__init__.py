"""The local stack: real services started on this machine for demos, tests and rehearsals."""
