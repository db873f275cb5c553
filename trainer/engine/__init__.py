"""What every method's trainer is made of: model, arguments, callbacks, saving, memory."""
