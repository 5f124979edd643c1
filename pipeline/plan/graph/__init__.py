"""What params.yaml means: runs, victims, records, tables, figures, each under its name."""
