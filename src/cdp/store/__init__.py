"""A volume's folder: layout, records, catalog, recovery, maintenance."""
