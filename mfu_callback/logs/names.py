"""The names under which a run's facts and figures are stored."""

PLUGIN_NAME = "mfu"  # of the tab, and of the data in event files that only the tab receives
RECORD_TAG = "mfu_callback/run"  # a run's facts and figures, as JSON
CARD_TAG = "mfu_callback"  # the facts and figures as text, for people
SUMMARY_FILE = "mfu_summary.json"  # the facts and figures as JSON, in the run's directory
