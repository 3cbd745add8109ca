"""Routing: reference response maps are read while sampling and each reference is kept inside its own region."""
