"""The detector-based system that the poster compares with (VMRM)."""
