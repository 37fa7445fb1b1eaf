"""Small tools that know nothing of what is measured: values within values, brackets around methods, commands."""
