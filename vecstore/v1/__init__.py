"""The wire contract, generated from proto/; `make proto` writes it anew."""
