"""How the session goes: a pure view model and its renderers."""
