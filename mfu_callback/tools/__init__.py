"""Small tools that are independent of what is measured: walking nested values, brackets around methods, commands."""
