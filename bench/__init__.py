"""The figures of vecstore, measured side by side within one run; `make bench` prints them all."""
