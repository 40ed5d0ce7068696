"""Councils; turns an approved plan into deliberations and drives each to its outcome."""
