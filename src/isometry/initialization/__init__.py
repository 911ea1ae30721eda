"""What is known of a network at step 0: measured, predicted, advised."""
