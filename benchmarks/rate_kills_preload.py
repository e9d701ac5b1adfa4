"""What a server of `rate_kills` needs, imported once for all its forks."""

import sawyer.cli.main
import sawyer.ratings
import sawyer.web.core
import sawyer.web.rate  # noqa: F401
