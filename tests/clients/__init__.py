"""What users make of the OpenAPI document with the tools they have: generated clients, and linters."""
