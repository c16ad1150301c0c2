"""How each report reads for people: values in, rich renderables out."""
