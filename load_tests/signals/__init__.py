"""What the category classifier is fitted with and judged by."""
