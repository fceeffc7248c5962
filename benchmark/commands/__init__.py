"""The commands, one a module: SUMMARY, add_arguments(parser), main(options).

They are light to import, as `--help` loads all.
"""
