"""The one place where a value goes from SQLite to production and back, and where equality is judged."""

from localstore.codec.values import DefectCode, Text, Value, ValueDefect

__all__ = ["DefectCode", "Text", "Value", "ValueDefect"]
