"""What people see: the pictures of the README, and the browser that takes them."""
