"""A graph of patients, diseases and drugs, built from tables in MIMIC-III's schema."""
