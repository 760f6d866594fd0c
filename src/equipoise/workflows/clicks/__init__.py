"""From a file of impressions with histories to a click model, compared on rows held out."""
