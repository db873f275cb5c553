"""The form of a new job: the fields of its model beside its YAML, each written by the other."""
