"""Networks: plain torch modules."""
