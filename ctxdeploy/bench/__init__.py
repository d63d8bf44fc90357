"""How fast is it here, and what limits it: measurements that can be compared, and their comparison."""
