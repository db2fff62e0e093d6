"""Data sets, and the batches read from them. Nothing here runs on the accelerator."""
