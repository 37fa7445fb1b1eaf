"""The measurements of one run, joined: seconds, tokens, FLOPs and peaks. Independent of any trainer."""
