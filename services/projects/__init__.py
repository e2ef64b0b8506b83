"""projects: sandboxes and who may do what in them, from when and until when."""
