"""Demonstrations: each runs offline, shows what it did, and is a test."""
