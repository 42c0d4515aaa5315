"""A model server that is none: it answers with what it was sent, word by word, so that a test or a bench knows every byte and token beforehand."""
