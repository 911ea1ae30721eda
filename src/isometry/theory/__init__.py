"""Mean-field theory of wide random networks, in numpy and scipy; takes plain records and callables,
never torch.
"""
