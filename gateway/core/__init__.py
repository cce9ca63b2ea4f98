"""Decisions: plain functions and frozen values. No async, clock, randomness or I/O in here."""
