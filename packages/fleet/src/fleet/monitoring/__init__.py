"""The dashboard, its read API and the admin test cases."""
