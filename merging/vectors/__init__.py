"""Task vectors in every form: differences, adapters, mapped stacks, and what is done to them."""
