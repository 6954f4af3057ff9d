"""VMRM, the detector-based system that the poster compares with: a detector, and a model over its proposals."""
