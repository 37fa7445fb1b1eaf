"""The names under which a run's facts and figures are kept."""

PLUGIN_NAME = "mfu"  # of the tab, and of the data in event files that TensorBoard hands to it alone
RECORD_TAG = "mfu_callback/run"  # a run's facts and figures, as JSON
CARD_TAG = "mfu_callback"  # the same as text, for people
SUMMARY_FILE = "mfu_summary.json"  # the same as JSON, in the directory of the first logger
