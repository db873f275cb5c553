"""Ways to tell people something: a webhook that is signed, and every service that Apprise knows."""
