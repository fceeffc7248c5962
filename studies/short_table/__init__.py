"""The main columns of a report's tables, best row first, for a page of the documentation."""
