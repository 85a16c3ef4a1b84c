"""What can be set: the experiment, and a module for each section that a stage takes whole.

An edit of a section runs again the stages that take it; ``experiment`` itself is run by no stage.
"""
