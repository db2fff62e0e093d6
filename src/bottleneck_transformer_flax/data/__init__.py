"""Data sets, and the batches that are read of them. Nothing here runs on the accelerator."""
