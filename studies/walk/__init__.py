"""Which files does one interaction pass from the raw file to a cell of a table?"""
