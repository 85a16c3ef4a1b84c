"""What every stage needs and no result depends on: errors, files, progress, worker processes, GPU leases, HTTP.

Anything here may be edited without a result to change.
"""
