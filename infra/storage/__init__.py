"""What lies in the object store: bytes by digest, manifests, the promotion log."""
