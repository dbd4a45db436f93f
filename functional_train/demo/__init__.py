"""The demo: the library's public functions on two real tasks."""
