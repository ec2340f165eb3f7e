"""What everything else stands on: errors and the record of which implementation ran."""
