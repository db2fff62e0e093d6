"""Images and labels: where they come from, how they are changed, how they become batches.

``sources`` lists images with labels, ``transforms`` makes one image an array of the model's
size, ``loader`` makes batches of them. Nothing here runs on the accelerator.
"""
