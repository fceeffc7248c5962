"""The commands, one a module: SUMMARY, fill(parser), call(options). Light to import: `--help` loads all."""
