"""How the gradients of all devices become one."""
