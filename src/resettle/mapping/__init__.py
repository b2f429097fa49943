"""The declaration of a migration: its model, its loading with places, its SQL and its functions."""
